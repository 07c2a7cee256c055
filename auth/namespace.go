// SPDX-License-Identifier: Apache-2.0

package auth

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DefaultAccount is the account that Pods of a namespace have which name none.
func DefaultAccount(namespace string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}
}

// DescriptionAnnotation tells people what an object is for.
const DescriptionAnnotation = "kubernetes.io/description"

// RootCA is what Pods of a namespace know the API server by; it lies in their
// token volumes.
func RootCA(namespace string, ca []byte) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kube-root-ca.crt", Annotations: map[string]string{
			DescriptionAnnotation: "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
		}},
		Data: map[string]string{"ca.crt": string(ca)},
	}
}
